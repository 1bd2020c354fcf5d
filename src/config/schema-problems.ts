import type { z } from 'zod';
import { type Problem, toPath } from './problem.ts';

/** One schema issue as problems with full paths: an unknown key is reported where it stands, a union by its nearest branch. */
export function toProblems(issue: z.core.$ZodIssue, above: readonly PropertyKey[] = []): Problem[] {
  const segments = [...above, ...issue.path];
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({ path: toPath([...segments, key]), message: 'unknown field' }));
  }
  if (issue.code === 'invalid_union' && issue.errors.length > 0) {
    // A branch whose complaints lie deeper than its own keys is the one the user meant.
    const meant = issue.errors.filter((branch) => branch.every((inner) => inner.path.length > 0 || inner.code === 'unrecognized_keys'));
    const first = meant.length === 1 ? meant[0] : undefined;
    if (first !== undefined) return first.flatMap((inner) => toProblems(inner, segments));
  }
  return [{ path: toPath(segments), message: issue.message }];
}
