# tries: makes shared memory that would outlive it -> exception
def solve(numbers):
    from multiprocessing import shared_memory
    shared_memory.SharedMemory('judge', create=True, size=1 << 20)
    return sum(numbers)
