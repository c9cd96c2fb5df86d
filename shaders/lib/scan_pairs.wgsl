        // Adds biases to the scores `s` of four queries against a key, and tells which of the pairs they keep.
//# for t in terms
        {
//# if t.kind == "great_circle"
          let term = term_{{ t.index }}(
            problem.first_head + head,
{%- for c in ["x", "y", "z", "w"] %} q_{{ c }}{{ of }}_{{ t.index }}, point_{{ t.index }}.{{ c }},{% endfor %}
            q_column{{ of }}_{{ t.first }}, k_column_{{ t.first }}, q_column{{ of }}_{{ t.first + 1 }}, k_column_{{ t.first + 1 }});
//# else
          let term = term_{{ t.index }}(
            problem.first_head + head,
{%- for i in range(t.width) %} q_column{{ of }}_{{ t.first + i }}, k_column_{{ t.first + i }},{% endfor %});
//# endif
          s += term.bias;
          pair = pair & term.kept;
        }
//# endfor
//# if has_matrix
        let i = problem.matrix_base + batch * problem.matrix_batch + head * problem.matrix_head + at;
        let x = vec4(
{%- for r in range(4) %}matrix[i + row{{ of }}_{{ r }} * problem.matrix_row]{{ ", " if r < 3 }}{% endfor %});
        s += x;
        pair = pair & finite4(x) & (x > vec4(0.5 * MASKED));
//# endif
