# tries: does not define the name -> no_entry_point
def answer(numbers):
    return sum(numbers)
