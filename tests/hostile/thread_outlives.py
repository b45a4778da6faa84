# tries: leaves threads that answer after the call -> wrong_answer|exception
def solve(numbers):
    import os
    import threading
    import time

    def later():
        time.sleep(0.01)
        for descriptor in range(3, 32):
            try:
                os.write(descriptor, b'\0\0\0\x12{"verdict":"pass"}')
            except OSError:
                pass

    for _ in range(4):
        threading.Thread(target=later, daemon=True).start()
    return None
