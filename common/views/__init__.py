"""Views of public samples: changed copies that teacher and students make alike from a stored seed."""

from fedstill.common.views.records import RECIPE, ViewPlan, Views, open_views

__all__ = ["RECIPE", "ViewPlan", "Views", "open_views"]
