# tries: starts a pool of processes -> exception
def solve(numbers):
    from multiprocessing import Pool
    with Pool(2) as pool:
        pool.map(len, [''])
    return sum(numbers)
