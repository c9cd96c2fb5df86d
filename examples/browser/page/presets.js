// Biases to begin with.
export const PRESETS = {
  Gaussian: 'let d = (q_coord[0] - k_coord[0]) / params(0);\nreturn -0.5 * d * d;',
  ALiBi: 'return -abs(q_coord[0] - k_coord[0]) / params(0);',
  Periodic:
    'let d = q_coord[0] - k_coord[0];\nlet turn = sin(3.14159 * d) / params(0);\nreturn -turn * turn - 0.3 * d * d;',
  'Only the past':
    'let age = q_coord[0] - k_coord[0];\nif (age < 0.0) {\n    return MASKED;\n}\nreturn -age / params(0);',
  Steps:
    'let here = floor(q_coord[0] / params(0));\nlet there = floor(k_coord[0] / params(0));\nreturn select(-9.0, 0.0, here == there);',
};
