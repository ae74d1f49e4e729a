# files of src/tensor
