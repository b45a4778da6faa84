"""The figures of the data stages, ours and the peers' side by side in one run, on a generated corpus.

python -m benchmarks.data near        # against datatrove and datasketch
python -m benchmarks.data tokenize    # against tokenizers' encode_batch
python -m benchmarks.data pack        # against TRL's pack_dataset
python -m benchmarks.data clean       # a million rows, every rule
python -m benchmarks.data engines     # the same bytes on one worker, two, two nodes of Ray
python -m benchmarks.data scaling     # fetch, clean, pack at two sizes; what 10^6 to 10^9 rows would cost
python -m benchmarks.data             # all of it

Needs data/benchmarks (`dvc repro fetch`) and, for tokenize, scaling and engines, models/base (`dvc repro base`). The peers' packages are
installed under .cache/benchmarks. Nothing is asserted: the last table holds what the figures are asked to be.
"""

import argparse

from benchmarks import clean, engines, near, pack, scaling, tokens
from benchmarks.tell import machine, table_of

PARTS = {
    "near": (near.__doc__, near.add_arguments, near.run),
    "tokenize": (tokens.__doc__, tokens.add_arguments, tokens.run),
    "pack": (pack.__doc__, pack.add_arguments, pack.run),
    "scaling": (scaling.__doc__, scaling.add_arguments, scaling.run),
    "engines": (engines.__doc__, engines.add_arguments, engines.run),
    "clean": (clean.__doc__, clean.add_arguments, clean.run),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="part")
    ways = {}
    for name, (about, add_arguments, run) in PARTS.items():
        command = commands.add_parser(name, help=(about or "").split("\n")[0], description=about)
        add_arguments(command)
        ways[name] = (command, run)
    given = parser.parse_args()
    print(machine(), flush=True)
    parts = []
    for name, (command, run) in ways.items():
        if given.part in (None, name):
            print(f"\n{name}", flush=True)
            parts += run(given if given.part else command.parse_args([]))
    if parts:
        print("\n" + table_of(parts))


if __name__ == "__main__":
    main()
