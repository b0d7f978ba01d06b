"""notify as a KFP component: the run's exit handler."""

from kfp.dsl import PipelineTaskFinalStatus

from components.kfp_step import step


@step
def notify(status: PipelineTaskFinalStatus, run_id: str, registry: str, model_name: str, ui: str) -> None:
    """Tell how the run ended, whether it did well or failed."""
    from components.notify.notify import notify as run

    run(state=status.state, run_id=run_id, registry=registry, model_name=model_name, ui=ui)
