# tries: forks where threads are allowed -> exception
def solve(numbers):
    import os
    import threading
    threading.Thread(target=len, args=('',)).start()
    if os.fork() == 0:
        os._exit(0)
    return sum(numbers)
