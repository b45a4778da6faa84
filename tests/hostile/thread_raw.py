# tries: starts a thread past the library -> exception
def solve(numbers):
    import _thread
    _thread.start_new_thread(len, ('',))
    return sum(numbers)
