# tries: talks to the kernel by netlink -> exception
def solve(numbers):
    import socket
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    return sum(numbers)
