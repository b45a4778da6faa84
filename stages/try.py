"""python -m stages.try "def is_palindrome(s: str) -> bool:" (see stages/playground; no statement can import `try`)"""

import sys

from stages.common.core.errors import UserError
from stages.playground.command import main

if __name__ == "__main__":
    try:
        main()
    except (UserError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
