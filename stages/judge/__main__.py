"""python -m stages.judge samples.jsonl --benchmark humaneval --output verdicts.jsonl (see `cli`)"""

import sys

from stages.common.core.errors import UserError
from stages.judge.cli import main

if __name__ == "__main__":
    try:
        main()
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
