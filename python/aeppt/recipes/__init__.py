"""Ways of training a classifier that leak less of its training set."""

from aeppt.recipes.base import Recipe
from aeppt.recipes.plain import Plain

__all__ = ["Plain", "Recipe"]
