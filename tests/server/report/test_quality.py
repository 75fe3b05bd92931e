"""The report's section on what compression changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fedstill.server.analysis.flips import Flip, Flips
from fedstill.server.report.quality import render_quality
from fedstill.server.run.summary import NodeQuality, Resemblance


def alike(agreement: float, *, cka: float | None = 0.5) -> Resemblance:
    return Resemblance(
        agreement_ratio=agreement, kl_nats=0.1, cka=cka, saliency_cosine=-0.25, saliency_overlap=0.3
    )


def node(*, teacher: bool = True) -> Any:
    quality = NodeQuality(
        artefact_to_teacher=alike(0.911) if teacher else None,
        fp32_to_teacher=alike(0.922) if teacher else None,
        floor_to_teacher=alike(0.111, cka=None) if teacher else None,
        artefact_to_fp32=alike(0.933),
        floor_to_fp32=alike(0.122),
    )
    return SimpleNamespace(node_id="<node>", quality=quality)


def flips(**changes: Any) -> Flips:
    flip = Flip(index=7, num_nodes=2, true_class=0, fp32_class=0, artefact_class=1, **changes)
    return Flips(num_nodes=3, class_names=["<b>cat", "dog"], flips=[flip])


def test_each_figure_stands_beside_its_floor() -> None:
    page = render_quality([node()], None)

    assert "0.911 <span class=floor>0.111</span>" in page
    assert "0.933 <span class=floor>0.122</span>" in page
    assert "0.500 <span class=floor>–</span>" in page
    assert "−0.250" in page


def test_a_run_without_teacher_compares_artefact_and_student() -> None:
    page = render_quality([node(teacher=False)], None)

    assert page.count("<tr><td>") == 1
    assert "artefact and uncompressed student" in page


def test_flipped_samples_are_shown_and_what_a_run_wrote_is_text() -> None:
    page = render_quality([node()], flips(png='x" onerror="alert(1)'))

    assert "&lt;b&gt;cat → dog" in page
    assert "&lt;node&gt;" in page
    assert 'onerror="' not in page
    assert "<blockquote>a &lt;i&gt;</blockquote>" in render_quality([], flips(text="a <i>"))


def test_a_run_that_kept_nothing_has_no_section() -> None:
    assert render_quality([SimpleNamespace(node_id="n", quality=None)], None) == ""  # type: ignore[list-item]
    none_flipped = Flips(num_nodes=3, class_names=["a"], flips=[])
    assert "changed no class on any of 3 nodes" in render_quality([], none_flipped)
