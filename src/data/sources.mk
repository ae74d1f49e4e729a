# files of src/data
