# tries: listens on a unix socket with a path -> exception|unsupported
def solve(numbers):
    import os
    import socket
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(folder, 'hostile-socket'))
        listener.listen()
    return sum(numbers)
