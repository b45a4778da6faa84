# tries: talks to the machine's host -> exception
def solve(numbers):
    import socket
    socket.socket(40, socket.SOCK_STREAM)
    return sum(numbers)
