import { setFlagsFromString } from 'node:v8';

/** Node whose V8 has the flag. */
const nodeMajorMin = 24;

/**
 * Has V8 count what buffers hold as part of the heap, whose limit grows with it. By itself it begins a full collection for each 64 MB of
 * buffers that were made, whatever became of them: long prompts come at a few hundred MB a second, and the collections took two fifths
 * of all CPU time. To be called before anything is allocated.
 */
export function countBuffersAsHeap(): void {
  const major = Number(process.versions.node.split('.')[0]);
  if (major >= nodeMajorMin) setFlagsFromString('--external-memory-accounted-in-global-limit');
}
