import type { UseMutationResult } from "@tanstack/react-query";
import type { FormEvent, ReactNode } from "react";
import { Dialog } from "./Basics";
import { Problem } from "./Problem";

interface Props {
  title: string;
  /** What the button does; why it was refused is shown here, but for the fields that show it themselves. */
  send: UseMutationResult<unknown, Error, void>;
  fields: readonly string[];
  button: string;
  good: boolean;
  onClose: () => void;
  children: ReactNode;
}

/** A dialog with a form that changes one thing. */
export function EditDialog({ title, send, fields, button, good, onClose, children }: Props) {
  const onSubmit = (event: FormEvent) => {
    event.preventDefault();
    send.mutate();
  };
  return (
    <Dialog title={title} onClose={onClose}>
      <form onSubmit={onSubmit}>
        {children}
        <Problem error={send.error} elsewhere={fields} />
        <button type="submit" className="primary" disabled={send.isPending || !good}>
          {button}
        </button>
      </form>
    </Dialog>
  );
}
