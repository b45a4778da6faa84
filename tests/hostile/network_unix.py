# tries: opens an abstract unix socket -> exception
def solve(numbers):
    import socket
    s = socket.socket(socket.AF_UNIX)
    s.bind('\0judge')
    return sum(numbers)
