# files of src/ckpt
