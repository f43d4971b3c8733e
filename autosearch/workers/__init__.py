"""Where trials are computed: in this process, or in worker processes."""

from autosearch.workers.choice import check_isolation, make_executor
from autosearch.workers.executor import Done, Executor, InProcess, Task
from autosearch.workers.processes import WorkerProcesses

__all__ = ["Done", "Executor", "InProcess", "Task", "WorkerProcesses", "check_isolation", "make_executor"]
