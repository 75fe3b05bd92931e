"""What the tables of the configuration have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Scalar = bool | int | float | str
Unit = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """One table of the configuration; unknown keys are errors."""

    model_config = ConfigDict(
        allow_inf_nan=False, extra="forbid", frozen=True, populate_by_name=True, strict=True
    )
