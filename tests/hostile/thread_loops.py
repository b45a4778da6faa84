# tries: loops in threads while it waits -> cpu_timeout
def solve(numbers):
    import threading
    import time

    def loop():
        while True:
            pass

    for _ in range(4):
        threading.Thread(target=loop, daemon=True).start()
    time.sleep(1000)
    return sum(numbers)
