"""The kNN accuracy that is shown while a run goes: on clips held out of it, each process taking a share."""

from __future__ import annotations

import math

import numpy as np
from accelerate import Accelerator
from torch import Tensor

from mica.data.dataset import SkeletonDataset
from mica.evaluation.features import extract_features
from mica.evaluation.knn import knn_predict
from mica.evaluation.metrics import accuracy
from mica.models.mica import MICA
from mica.training.parts import Parts
from mica_kernels import distributed


def knn_accuracy(model: MICA, parts: Parts, accelerator: Accelerator) -> float:
    """Accuracy of the nearest neighbour, from the fit clips to the validation clips, in percent."""
    gallery, labels = _features(model, parts.gallery, accelerator)
    queries, truth = _features(model, parts.queries, accelerator)
    return accuracy(knn_predict(gallery, labels, queries), truth)


def _features(model: MICA, dataset: SkeletonDataset, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    processes = accelerator.num_processes
    share = math.ceil(len(dataset) / processes)
    first = accelerator.process_index * share
    # As many on each: the last ones begin anew with the first clips, which are cut off again.
    mine = np.resize(dataset.indices, share * processes)[first : first + share]
    part = SkeletonDataset(dataset.store, mine, dataset.how)
    found = extract_features(model, part, dataset.how.stream, dataset.store.layout)
    features, labels = (distributed.gather(tensor.to(accelerator.device)).cpu() for tensor in found)
    return features[: len(dataset)], labels[: len(dataset)]
