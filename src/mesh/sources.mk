# files of src/mesh
