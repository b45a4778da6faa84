# tries: starts a process by multiprocessing -> exception
def solve(numbers):
    from multiprocessing import Process
    process = Process(target=len, args=([],))
    process.start()
    process.join()
    return sum(numbers)
