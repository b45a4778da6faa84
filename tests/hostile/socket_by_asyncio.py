# tries: opens a port through asyncio -> exception
def solve(numbers):
    import asyncio

    async def serve():
        server = await asyncio.start_server(lambda reader, writer: None, '127.0.0.1', 0)
        if not server.sockets:
            raise OSError

    asyncio.run(serve())
    return sum(numbers)
