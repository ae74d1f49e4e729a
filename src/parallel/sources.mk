# files of src/parallel
