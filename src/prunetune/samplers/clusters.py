"""Clusters of one class, and picks from them."""

import warnings

import torch
from torch import Tensor

# If images times centres exceed this number, k-means starts from randomly drawn images and runs few rounds.
MANY = 2**23
ROUNDS, FEW_ROUNDS = 100, 10


def k_means(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the cluster of each image, [n] int64 in 0..count - 1; some are empty where features repeat.

    Args:
        features: [n, D] float32.
        count: number of clusters, at most n.
        generator: draws the first centres.
    """
    from sklearn.cluster import KMeans  # The import takes 110 MB and a second, and few methods need it.
    from sklearn.exceptions import ConvergenceWarning

    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    is_small = len(features) * count <= MANY
    start, rounds = ("k-means++", ROUNDS) if is_small else ("random", FEW_ROUNDS)
    fit = KMeans(count, init=start, n_init=1, max_iter=rounds, random_state=seed)
    with warnings.catch_warnings():
        # The algorithm warns if there are fewer distinct images than clusters.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return torch.from_numpy(fit.fit_predict(features.contiguous().numpy())).long()


def first_of_clusters(clusters: Tensor, costs: Tensor, count: int) -> Tensor:
    """Return the cheapest image of each cluster; if more are needed, the next of each, largest cluster first.

    Args:
        clusters: [n] int64.
        costs: [n] float64; ties to the smaller index.
        count: number of images to return, at most n.

    Returns:
        [count] int64.
    """
    sizes = torch.bincount(clusters)
    order = costs.argsort(stable=True)
    # The order lists one cluster after another, and the cheapest image of a cluster first.
    order = order[clusters[order].argsort(stable=True)]
    starts = sizes.cumsum(0) - sizes
    ranks = torch.empty_like(order)
    # The rank of an image is its place within its cluster.
    ranks[order] = torch.arange(len(order)) - starts[clusters[order]]
    by_size = (-sizes[clusters]).argsort(stable=True)
    return by_size[ranks[by_size].argsort(stable=True)][:count]
