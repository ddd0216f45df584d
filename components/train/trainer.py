"""Ray Train's trainer with no more actors than a training needs: each one wakes a hundred times a second."""

from __future__ import annotations

from typing import Any

from ray.train import Result
from ray.train.backend import Backend
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.local_mode.utils import LocalController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from components.settings import cluster_address


class Unasked(FixedScalingPolicy):  # type: ignore[misc]  # Ray declares no types
    """As many workers as were asked for, without an actor that would have nodes added: a local cluster has one."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Ask nobody for nodes."""

    def _maybe_send_resource_request(self) -> None:
        """Ask nobody again."""


class Alone(TorchConfig):  # type: ignore[misc]
    """For one worker: it has nobody to talk to, and a process group has a thread that wakes as often as an actor."""

    @property
    def backend_cls(self) -> type[Backend]:
        """The one that sets nothing up."""
        nothing: type[Backend] = Backend
        return nothing


class Here(TorchTrainer):  # type: ignore[misc]
    """In this process: alone, even where variables of torchrun would have it wait for others."""

    def _get_local_controller(self) -> LocalController:
        return LocalController(experiment_name=self.run_config.name, datasets=self.datasets)


class Trainer(TorchTrainer):  # type: ignore[misc]
    """Without the actor that shares Ray Data's datasets out, of which there are none.

    On a local cluster also without the one that would have nodes added, and the one that outlives a lost controller
    to give its CPUs back: it asks Ray's dashboard, which is not there. What a controller holds is given back when the
    training process leaves the cluster.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        idle: tuple[type[RayTrainCallback], ...] = (DatasetsCallback,)
        if not cluster_address():
            idle += (PlacementGroupCleanerCallback,)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, idle)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        if not cluster_address():
            arguments["scaling_policy"] = Unasked(self.scaling_config)
        return super()._initialize_and_run_controller(**arguments)
