"""Where the numbers of a run's record can go beside it: live sinks, and exports of finished runs."""

from fedsim.tracking.base import Sink
from fedsim.tracking.mlflow import Mlflow
from fedsim.tracking.tables import Parquet, Table
from fedsim.tracking.tensorboard import TensorBoard
from fedsim.tracking.wandb import Wandb

SINKS: dict[str, type[Sink]] = {"tensorboard": TensorBoard, "mlflow": Mlflow, "wandb": Wandb}
TABLES: dict[str, type[Table]] = {"csv": Table, "parquet": Parquet}
EXPORTS: dict[str, type[Sink]] = {**TABLES, **SINKS}

__all__ = ["EXPORTS", "SINKS", "TABLES", "Sink"]
