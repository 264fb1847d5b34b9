"""Hot-swap images: a set of adapters in one file, laid out as the engine's slots are."""

from engine.format.imageset import ImageSet
from engine.materialize.hotswap.write import write_images

__all__ = ["ImageSet", "write_images"]
