# tries: answers with a coroutine -> unsupported_value
async def solve(numbers):
    return sum(numbers)
