# tries: starts a program through asyncio -> exception
def solve(numbers):
    import asyncio
    import sys

    async def start():
        await (await asyncio.create_subprocess_exec(sys.executable, '-c', '')).wait()

    asyncio.run(start())
    return sum(numbers)
