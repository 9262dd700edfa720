fn main(){ println!("{}", filter_ctl::OBJECT.len()); }
