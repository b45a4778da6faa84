# tries: gives itself leave to start threads and processes -> exception
def solve(numbers):
    import ctypes
    import struct
    import threading
    threading.Thread(target=len, args=('',)).start()
    code = struct.pack('=HBBI', 6, 0, 0, 0x7fff0000)
    buffer = ctypes.create_string_buffer(code, 8)
    header = struct.pack('=HxxxxxxQ', 1, ctypes.addressof(buffer))
    if ctypes.CDLL(None, use_errno=True).syscall(317, 1, 8, header) < 0:
        raise OSError
    return sum(numbers)
