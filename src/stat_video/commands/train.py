"""Train a model, or with -m sweep over several: `python src/train.py experiment=ablation_window t_o=5`."""

from itertools import groupby

import stat_video.launch.early  # isort: skip  # noqa: F401
from stat_video.config import Config
from stat_video.cost.plan import Plan, plan, plan_table, total_of
from stat_video.launch.script import script
from stat_video.progress import say, show_table
from stat_video.runs.differing import differing
from stat_video.runs.result import Result
from stat_video.terminal import next_commands, results_table


def run(config: Config) -> Result:
    """Train and test one run."""
    from stat_video.training.fit import fit  # Lightning takes a second to import, which a wrong word need not wait

    return fit(config)


def check(config: Config) -> None:
    """Raise InputError for what a config leaves open until its callbacks are made."""
    if config.callbacks:
        from stat_video.training.own import check_callbacks

        check_callbacks(config)


def known(config: Config) -> Plan | Result | None:
    """Return what can be said of a run without running it: its plan with plan=true, or its result if it is finished."""
    if config.plan:
        return plan(config)
    from stat_video.training.fit import finished

    return finished(config)


def show(shown: list[Plan] | list[Result]) -> None:
    """Print a row for each run, a table for each experiment; after runs, what to do next."""
    plans = [one for one in shown if isinstance(one, Plan)]
    for _, of_name in groupby(plans, key=lambda plan: plan.name):
        show_table(plan_table(list(of_name)))
    if len({plan.name for plan in plans}) > 1:
        say(total_of(plans))
    results = [one for one in shown if isinstance(one, Result)]
    for _, group in groupby(results, key=lambda result: result.name):
        rows = list(group)
        show_table(results_table(rows, *differing([row.config for row in rows])))
    if results:
        for line in next_commands(results):
            say(line)


def main() -> None:
    """Run the command line."""
    script("train", Config, run, known=known, show=show, check=check)


if __name__ == "__main__":
    main()
