# tries: starts a thread -> exception
def solve(numbers):
    import threading
    thread = threading.Thread(target=len, args=('',))
    thread.start()
    thread.join()
    return sum(numbers)
