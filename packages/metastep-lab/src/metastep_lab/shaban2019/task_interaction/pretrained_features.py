"""Features of images by the user's pretrained network, such as ResNet-18 trained on ImageNet."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

IMAGES_AT_ONCE = 100
RESIZED_WHOLE = 384
"""From this size on, images are not cropped (`ConvNextImageProcessor`, which ResNet has)."""


@dataclass(frozen=True)
class ImageNetwork:
    """A network that reads color images.

    Attributes:
        network: a model of Hugging Face with a pooled output.
        size: the side of the images that it reads, in pixels.
        enlarged: the side to which images are resized, before their center is cut out.
        mean: of each channel, for values from 0 to 1.
        deviation: likewise.
        resample: `bilinear` or `bicubic`.
        features: the length of its pooled output.
    """

    network: Any
    size: int
    enlarged: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    resample: str
    features: int

    @staticmethod
    def load(directory: Path) -> "ImageNetwork":
        """Load a network from a directory of Hugging Face.

        It has `config.json`, `model.safetensors` and `preprocessor_config.json`.

        Raises:
            ValueError: if PyTorch or transformers is missing, or there is no image network with a
                pooled output.
        """
        refused = f"features is {directory}; allowed is a directory with an image network: "
        try:
            options = json.loads((directory / "preprocessor_config.json").read_text())
            mean, deviation = options["image_mean"], options["image_std"]
            size = options["size"]
            # Newer files have {"shortest_edge": 224} or {"height": 224, "width": 224}.
            size = size if isinstance(size, int) else next(iter(size.values()))
            crop = options.get("crop_pct") if size < RESIZED_WHOLE else None
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise ValueError(f"{refused}its preprocessor_config.json is none") from error
        try:
            import torch
            import transformers
        except ImportError as error:
            raise ValueError(f"{refused}it needs pip install 'metastep[language]'") from error
        try:
            network, loading = transformers.AutoModel.from_pretrained(
                str(directory),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            network.eval()
            with torch.no_grad():
                probe = network(pixel_values=torch.zeros(1, len(mean), size, size)).pooler_output
        # Errors of any kind: transformers and the network's own code raise what they like.
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise ValueError(refused + reason) from error
        if loading["missing_keys"]:
            missing = min(loading["missing_keys"])
            raise ValueError(f"{refused}the weights of {missing} are missing here")
        return ImageNetwork(
            network=network,
            size=size,
            # `crop_pct`: the side is enlarged to size / crop_pct before the center is cut out.
            enlarged=int(size / crop) if crop else size,
            mean=tuple(mean),
            deviation=tuple(deviation),
            resample="bilinear" if options.get("resample") == 2 else "bicubic",
            features=probe.numel(),
        )

    def read(
        self, images: UInt8[np.ndarray, "images height width 3"], show: Callable[[int], None]
    ) -> Float[np.ndarray, "images features"]:
        """Return the pooled output of the network, float32; `show` gets the images done.

        Raises:
            ValueError: for images in gray, or of another number of channels.
        """
        import torch

        if images.ndim != 4 or images.shape[-1] != len(self.mean):
            raise ValueError(
                f"features needs images with {len(self.mean)} channels; these have shape "
                f"{images.shape}"
            )
        channels = lambda values: torch.tensor(values)[None, :, None, None]
        mean, deviation, found = channels(self.mean), channels(self.deviation), []
        border = (self.enlarged - self.size) // 2
        middle = slice(border, border + self.size)
        side = (self.enlarged, self.enlarged)
        with torch.no_grad():
            for first in range(0, len(images), IMAGES_AT_ONCE):
                some = torch.tensor(images[first : first + IMAGES_AT_ONCE]).permute(0, 3, 1, 2)
                large = torch.nn.functional.interpolate(
                    some.float() / 255, side, mode=self.resample, antialias=True
                )
                # Bicubic interpolation overshoots at edges.
                ready = (large.clip(0, 1)[:, :, middle, middle] - mean) / deviation
                pooled = self.network(pixel_values=ready).pooler_output
                found.append(pooled.flatten(1).numpy())
                show(first + len(some))
        return np.concatenate(found).astype(np.float32)
