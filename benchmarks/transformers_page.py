def page(rows, order, machine):
    return ""
