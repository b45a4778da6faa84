# tries: opens a raw socket -> exception
def solve(numbers):
    import socket
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    return sum(numbers)
