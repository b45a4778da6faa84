# tries: takes memory in many threads -> exception|out_of_memory|wrong_answer|cpu_timeout
def solve(numbers):
    import threading
    taken = []

    def take():
        while len(taken) < 1_000:
            taken.append(bytearray(16 << 20))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(numbers) if len(taken) >= 1_000 else None
