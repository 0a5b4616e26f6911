"""Reports as one page of HTML, which loads nothing from elsewhere."""
