# tries: makes a pair of sockets -> exception
def solve(numbers):
    import socket
    socket.socketpair()
    return sum(numbers)
