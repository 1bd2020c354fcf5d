import { setFlagsFromString } from 'node:v8';

/** Node whose V8 has the flags. */
const nodeMajorMin = 24;

/**
 * Tells V8 how this process makes garbage. To be called before anything is allocated.
 *
 * - What buffers hold counts as part of the heap, whose limit grows with it. By itself V8 begins a full collection for each 64 MB of buffers that
 *   were made, whatever became of them: long prompts come at a few hundred MB a second, and the collections took two fifths of all CPU time.
 * - Nothing is allocated as old from the start. V8 does so where most of the first objects of a place lived on; here those are the first 256
 *   decisions, which are kept for the admin API, and then each one after them was for the full collection, with all that hung on it.
 */
export function suitCollector(): void {
  const major = Number(process.versions.node.split('.')[0]);
  if (major < nodeMajorMin) return;
  setFlagsFromString('--external-memory-accounted-in-global-limit');
  setFlagsFromString('--no-allocation-site-pretenuring');
}
