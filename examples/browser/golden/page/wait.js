// Puts the stack of the program aside until the browser has worked on its other tasks.
export const suspend = new WebAssembly.Suspending(() => new Promise((resume) => setTimeout(resume)));
