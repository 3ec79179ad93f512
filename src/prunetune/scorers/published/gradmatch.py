"""GradMatch: the weights that DeepCore gives its picks."""

import torch
from torch import Tensor

from prunetune.selection.last_layer_gradients import LastLayerGradients


def deepcore_weights(gradients: LastLayerGradients, kept: Tensor, ridge: float) -> Tensor:
    """Return DeepCore's weights: non-negative least squares on the normal equations of the ridge fit.

    Source: DeepCore at commit 74ec709.

    Args:
        gradients: last-layer gradients of the n images of a class.
        kept: [k] int64 indices of the images that are kept.
        ridge: factor of the ridge penalty, above 0.

    Returns:
        [k] float64 >= 0; 0 marks an image that DeepCore drops.
    """
    from scipy.optimize import nnls  # The import is slow, and only this function needs it.

    if len(kept) == 1:
        return torch.ones(1, dtype=torch.float64)
    picked = gradients.take(kept).double()
    normal = picked.inner(picked) + ridge * torch.eye(len(kept), dtype=torch.float64)
    return torch.from_numpy(nnls(normal.numpy(), picked.dot(gradients.mean()).numpy())[0])
