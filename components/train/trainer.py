"""Ray Train's trainer with no more actors than a training needs: each one wakes a hundred times a second."""

from __future__ import annotations

import os

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback


class Trainer(TorchTrainer):  # type: ignore[misc]  # Ray declares no types
    """Without the actor that shares Ray Data's datasets out, of which there are none.

    On a local cluster also without the one that outlives a lost controller to give its CPUs back: it asks Ray's
    dashboard, which is not there. What a controller holds is given back when the training process leaves the cluster.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        idle: tuple[type[RayTrainCallback], ...] = (DatasetsCallback,)
        if not os.environ.get("RAY_ADDRESS"):
            idle += (PlacementGroupCleanerCallback,)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, idle)]
