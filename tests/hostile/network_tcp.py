# tries: opens a TCP socket -> exception
def solve(numbers):
    import socket
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    return sum(numbers)
