# tries: opens a UDP socket for IPv6 -> exception
def solve(numbers):
    import socket
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    return sum(numbers)
